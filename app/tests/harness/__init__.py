"""What the site's tests are made of: databases, replicas, people."""
