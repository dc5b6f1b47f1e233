from sleep_jax.data.closest_document import closest_document
from sleep_jax.data.documents import Document


def test_closest_document_shares_the_rarest_words():
    kiln = Document("0", "The kiln", "The kiln has a top temperature of 1260 degrees.")
    ferry = Document("0", "The ferry", "The ferry has a top speed of 12 knots.")
    documents = [ferry, kiln]
    assert closest_document("What is the top temperature?", documents) == 1
    assert closest_document("What is the top speed?", documents) == 0
    assert closest_document("Who?", documents) == 0
