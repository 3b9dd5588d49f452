"""Where models come from: timm, their preprocessing, and frozen BatchNorm folded away."""
