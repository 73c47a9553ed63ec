"""Student families: one file each. An instance is a shape; it knows its cost and how it starts from a teacher."""
