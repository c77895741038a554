"""Gradient-boosted trees over columns of several parties: SecureBoost."""
