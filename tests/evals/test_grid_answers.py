"""Grid tasks asked in several views: replies are transformed back and counted."""

from sleep_jax.data.grid_transforms import IDENTITY, flip, rotate
from sleep_jax.data.grids import GridFormat, GridPair, GridTask
from sleep_jax.evals.grid_answers import grid_items, is_solved, majority_votes, most_frequent

FORM = GridFormat()
EXAMPLE = GridPair(((1, 2),), ((2, 1),))
TASK = GridTask(
    "mirror", (EXAMPLE,), (GridPair(((3, 4),), ((4, 3),)), GridPair(((5, 6),), ((6, 5),)))
)


class Oracle:
    """A stub model that looks its answers up by the input of the test."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers = tokenizer, answers

    def replies(self, prompts):
        texts = [
            [self.tokenizer.decode(prompt) for prompt in model_prompts] for model_prompts in prompts
        ]
        return [
            [self.answers[self._question(text)] for text in model_prompts]
            for model_prompts in texts
        ]

    def _question(self, text):
        return text.split(FORM.arrow)[-2].split(FORM.pair_separator)[-1]


def test_grid_items_ask_every_test():
    first, second, other = grid_items([TASK, TASK], FORM)[:3]
    assert (first.document, first.question) == (0, "1 2\n->\n2 1\n\n3 4\n->\n")
    assert first.answers == ("4 3",) and second.answers == ("6 5",) and other.document == 1


def test_majority_votes_by_hand(tokenizer):
    views = (IDENTITY, flip(1), rotate(90))
    answers = {
        # Unchanged; mirrored; rotated left, so that the upper cell is the right one.
        **{"3 4": "9 9", "4 3": "3 4", "4\n3": "3\n4"},
        **{"5 6": "6 5", "6 5": "no grid", "6\n5": "1\n1"},  # a tie: the first view wins
    }
    [result] = majority_votes(Oracle(tokenizer, answers), [TASK], FORM, views)
    assert result == [((4, 3),), ((6, 5),)]
    assert is_solved(result, TASK) and not is_solved(result[::-1], TASK)
    [single_view] = majority_votes(Oracle(tokenizer, answers), [TASK], FORM)
    assert single_view == [((9, 9),), ((6, 5),)] and not is_solved(single_view, TASK)


def test_vote_without_grids_is_none():
    assert most_frequent([None, ((1,),), ((2,),), ((2,),)]) == ((2,),)
    assert most_frequent([None, None]) is None
    assert not is_solved([None, ((6, 5),)], TASK)
