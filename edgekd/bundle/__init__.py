"""The folder that a device team receives: its files, golden vectors, model card, provenance, bill of materials."""
