"""What every room stands on: types, errors, checks, linear maps, loops, precision, user code."""
