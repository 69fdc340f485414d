"""A job from its task to its result: inputs, plan, execution, and what is stored."""
