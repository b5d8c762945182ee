"""Interventions: reversible changes to the images or to the model."""
