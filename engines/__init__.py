"""A bundle goes in, engines, pictures and parity reports come out."""
