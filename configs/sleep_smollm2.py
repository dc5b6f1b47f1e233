"""SmolLM2-135M reads six sample documents, sleeps and is asked about them; about 15 minutes on 2
CPU cores.

python launch.py --config=configs/sleep_smollm2.py
python launch.py --config=configs/sleep_smollm2.py --config.data.documents=my_notes.txt
"""

from sleep_jax.config import default


def get_config():
    """The defaults are this run's."""
    c = default()
    c.data.limit = 6
    return c
