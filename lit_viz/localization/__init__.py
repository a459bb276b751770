"""From a saliency map to the object's box."""
