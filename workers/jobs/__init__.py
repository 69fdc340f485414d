"""A job as blocks: planned once, done in any order by any number of workers, and the same bytes each time."""
