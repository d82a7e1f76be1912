"""Running the site: what it refuses to start with, what it says of itself, and the plain live page."""
