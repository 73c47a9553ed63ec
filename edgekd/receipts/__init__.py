"""What a bundle shows on a device: receipts made, read and validated, and bundles compared."""
