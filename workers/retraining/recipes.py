"""A recipe of the contract as the engine takes it."""

from __future__ import annotations

from upweight.schema import Recipe
from workers.engine import TrainingPlan


def plan_of(recipe: Recipe, seed: int = 0) -> TrainingPlan:
    """`seed` is added to the recipe's."""
    return TrainingPlan(
        optimizer=recipe.optimizer,
        rate=recipe.rate,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=(recipe.seed + seed) % 2**63,
        shuffle=recipe.shuffle,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        betas=recipe.betas,
        eps=recipe.eps,
    )
