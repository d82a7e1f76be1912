"""What people write: which texts are taken, whom they mention, and how Markdown becomes safe HTML."""
