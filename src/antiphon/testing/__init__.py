"""For tests of applications and of brokers: doubles, a broker's contract, and virtual time."""
