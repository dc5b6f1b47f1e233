"""SmolLM2-135M-Instruct reads four sample documents, sleeps and is asked about them.

    python launch.py --config=configs/sleep_smollm2.py
    python launch.py --config=configs/sleep_smollm2.py --config.data.documents=my_notes.txt

score   closed book: 24 questions 0 % -> 54 %, held-out wordings 0 % -> 17 %; with the document in
        context 79 % and 38 %. One seed, a standard error of about 10 points, and the documents that
        the preset was chosen on; on others 29 % and 21 % (samples:7-10), 58 % and 25 % (11-14)
time    20 minutes on 2 CPU cores that do nothing else
memory  under 7 GiB
device  2 CPU cores; the model is downloaded
"""

from sleep_jax.config import default


def get_config():
    """The defaults, with rollouts once the student knows enough for some to be right."""
    c = default()
    c.data.documents = "samples:4"
    c.seeding.rollout_start = 0.76  # the last 24 of 100 updates: six whole rounds
    return c
