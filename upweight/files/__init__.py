"""Files' formats, read and written while they stream."""
