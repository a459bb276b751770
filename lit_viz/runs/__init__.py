"""The run folder: its layout, its files and the results that they contain."""
