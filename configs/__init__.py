"""Configuration: schema.py holds every default; the YAML files beside it are profiles."""
