"""Operations of the hot functions, counted and held to a bound: the same on every machine, however busy it is."""
