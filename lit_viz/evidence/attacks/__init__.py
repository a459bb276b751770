"""Evidence for adversarial examples: file verification, trust, robustness, transfer."""
