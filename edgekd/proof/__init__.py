"""What a bundle shows on a device: receipts made, doubted, kept beside it, and bundles compared."""
