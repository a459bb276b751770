"""Evidence for saliency maps: agreement with Captum, quality metrics."""
