"""Evidence for saliency maps: agreement with Captum, and saliency metrics."""
