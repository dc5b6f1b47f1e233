"""Tasks of this project for lm-evaluation-harness: a YAML file each, in its format, and their items
as JSON Lines. `items` makes data sets of these and of what is on record of a run; `scores` has what
becomes of a reply."""
