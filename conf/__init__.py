"""YAML differences from the field defaults, shipped with the package."""
