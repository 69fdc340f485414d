"""The one door to Redis and to objects, for the front end and the workers alike."""
