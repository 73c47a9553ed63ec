"""Reading a user's data, and dividing it so that no figure is won by a leak. No torch here."""
