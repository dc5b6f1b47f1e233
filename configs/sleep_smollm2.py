"""SmolLM2-135M reads four sample documents, sleeps and is asked about them; about 15 minutes on 2
CPU cores.

python launch.py --config=configs/sleep_smollm2.py
python launch.py --config=configs/sleep_smollm2.py --config.data.documents=my_notes.txt
"""

from sleep_jax.config import default


def get_config():
    """The defaults, with rollouts once the student knows enough for some to be right."""
    c = default()
    c.data.documents = "samples:4"
    c.seeding.rollouts_from = 0.76  # of 100 updates 24: six whole rounds
    return c
