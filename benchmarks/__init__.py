"""Measurements, with the command and the machine they were made on."""
