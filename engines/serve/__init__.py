"""`stepcarve serve`: bundles behind the OpenAI images API."""
