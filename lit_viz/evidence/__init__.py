"""Evidence that results hold for the original network: re-read files, Captum, held-out networks."""
