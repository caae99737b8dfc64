"""Decides which samples are kept, from columns only: rules, CLIP score, then exact, perceptual and semantic dedup."""
