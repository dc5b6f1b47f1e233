"""Tasks of lm-evaluation-harness (the package lm_eval, imported only where it is used): the
adapter of a model (`harness`), scores (`task_scores`), and this project's own tasks: in `local` a
YAML file each, in lm_eval's format, and packaged items as JSON Lines, of which `items` makes data
sets; `item_scores` says what becomes of a reply.
"""
