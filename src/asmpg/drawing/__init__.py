"""What all pictures have in common: how a method looks, panels, and charts as data."""
