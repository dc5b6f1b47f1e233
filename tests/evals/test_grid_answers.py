"""Grid tasks asked in several views: replies are turned back and counted."""

from sleep_jax.data.grid_transforms import IDENTITY, flip, rotate
from sleep_jax.data.grids import GridFormat, GridPair, GridTask
from sleep_jax.evals.grid_answers import grid_items, is_solved, majority_votes, most_frequent

FORM = GridFormat()
SHOWN = GridPair(((1, 2),), ((2, 1),))
TASK = GridTask(
    "mirror", (SHOWN,), (GridPair(((3, 4),), ((4, 3),)), GridPair(((5, 6),), ((6, 5),)))
)


class Oracle:
    """A stand-in for a model: answers by a table of the test's input, as it was asked."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers = tokenizer, answers

    def replies(self, prompts):
        texts = [[self.tokenizer.decode(prompt) for prompt in own] for own in prompts]
        return [[self.answers[self._asked(text)] for text in own] for own in texts]

    def _asked(self, text):
        return text.split(FORM.arrow)[-2].split(FORM.pair_separator)[-1]


def test_grid_items_ask_every_test():
    first, second, other = grid_items([TASK, TASK], FORM)[:3]
    assert (first.document, first.question) == (0, "1 2\n->\n2 1\n\n3 4\n->\n")
    assert first.answers == ("4 3",) and second.answers == ("6 5",) and other.document == 1


def test_majority_votes_by_hand(tokenizer):
    views = (IDENTITY, flip(1), rotate(90))
    answers = {
        # As asked; mirrored; turned to the left: the upper cell was the right one.
        **{"3 4": "9 9", "4 3": "3 4", "4\n3": "3\n4"},
        **{"5 6": "6 5", "6 5": "no grid", "6\n5": "1\n1"},  # a tie: the first view wins
    }
    [found] = majority_votes(Oracle(tokenizer, answers), [TASK], FORM, views)
    assert found == [((4, 3),), ((6, 5),)]
    assert is_solved(found, TASK) and not is_solved(found[::-1], TASK)
    [alone] = majority_votes(Oracle(tokenizer, answers), [TASK], FORM)
    assert alone == [((9, 9),), ((6, 5),)] and not is_solved(alone, TASK)


def test_vote_without_grids_is_none():
    assert most_frequent([None, ((1,),), ((2,),), ((2,),)]) == ((2,),)
    assert most_frequent([None, None]) is None
    assert not is_solved([None, ((6, 5),)], TASK)
