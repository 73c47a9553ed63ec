"""The report: what was found, composed once; its page, drawings and words."""
