"""Every setting of a run with its default, in one place; presets in `configs/` change what they
need.

Fields keep the names of the paper where it has one: `alpha`, `lam` (lambda), `gamma` (Eq. 3),
`threshold` (z0, Eq. 4).
"""

import dataclasses

import ml_collections

from sleep_jax.dreaming.curriculum import CurriculumConfig
from sleep_jax.dreaming.rejection import Rejection
from sleep_jax.dreaming.reward import RewardConfig
from sleep_jax.dreaming.select import SelectionConfig
from sleep_jax.dreaming.templates import choose_templates, read_templates
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.dreaming.write import WritingConfig
from sleep_jax.evals.scorers import IN_WORDS, SCORERS
from sleep_jax.memory.config import LevelConfig, MemoryConfig
from sleep_jax.models.config import LoraConfig
from sleep_jax.rl.algorithms import ALGORITHMS, Surrogate, surrogate
from sleep_jax.seeding.config import SeedingConfig
from sleep_jax.seeding.divergence import Divergence
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.self_study import StudyConfig
from sleep_jax.seeding.sequences import BatchShape
from sleep_jax.seeding.transaction import Gate
from sleep_jax.wake.stream import WakeConfig


def default() -> ml_collections.ConfigDict:
    """The defaults of a run; a preset is a function that changes some of them and returns the
    rest."""
    c = ml_collections.ConfigDict()
    c.seed = 0

    c.model = ml_collections.ConfigDict()
    c.model.name = "SmolLM2-135M-Instruct"  # a folder, a .gguf file, a Hub name, or "tiny" (random)
    c.model.dtype = "bfloat16"
    c.model.remat = "full"

    c.mesh = ml_collections.ConfigDict()  # sizes of its axes; -1: what the devices leave
    c.mesh.data = 1  # rows
    c.mesh.fsdp = -1  # rows, and one axis of every weight
    c.mesh.tensor = 1  # heads, FFN units, vocabulary
    c.mesh.slice = ""  # the TPU slice that the sizes are meant for, e.g. "v5e:4x4"; for plans only

    c.checkpoint = ml_collections.ConfigDict()  # one follows every phase
    c.checkpoint.keep = 0  # the last so many; 0: all
    c.checkpoint.updates = 25  # and one, within a phase, so many updates or batches; 0: none

    c.data = ml_collections.ConfigDict()
    # A text, markdown, PDF, HTML, Word or JSONL file, a folder of them, the address of either
    # (gs://...), "seqio:TASK", or "samples", "samples:4" for their first four parts.
    c.data.documents = "samples"
    c.data.limit = 0  # read only the first parts of whatever is given; 0 reads all
    c.data.chunk_tokens = 256  # a longer document becomes several
    c.data.episodes = 1  # days over which the documents are read; each ends in a night

    c.memory = ml_collections.ConfigDict()
    # One entry a level, fastest first; a single entry counts for all of them.
    c.memory.chunks = (0,)  # C^(l), the period of level l; 0, never, for the slowest
    c.memory.slots = (5,)
    c.memory.ranks = (16,)
    c.memory.learning_rates = (0.0,)  # eta^(l) of Eq. 2
    c.memory.unit = "episodes"  # of chunks: tokens, updates or episodes
    c.memory.stride = 256  # tokens of one gradient
    c.memory.layout = "parallel"  # or "chain"
    c.memory.expert = "swiglu"  # or "bottleneck"
    c.memory.router = "none"  # or "sigmoid", with top_k slots on
    c.memory.top_k = 0
    c.memory.layers = "all"  # or "last_quarter", or indices such as "20,21,25"
    c.memory.scale = 1.0
    c.memory.from_context = True  # consolidate the context into level 1 when an episode ends
    c.memory.on_full = "error"  # or "skip", "merge", "reuse"

    c.wake = ml_collections.ConfigDict()  # the stream, where a learning rate is not 0
    c.wake.context = 1024  # tokens that the stream sees of itself
    c.wake.clip = 1.0

    c.gate = ml_collections.ConfigDict()  # a night that does worse is rolled back
    c.gate.divergence = 0.8  # KL to the teacher afterwards, as a share of that before
    c.gate.anchors = 0.1  # rise of the anchor perplexity

    c.study = ml_collections.ConfigDict()  # what the teacher writes about what it read
    c.study.recitations = 1
    c.study.completions = 2
    c.study.questions = 4
    c.study.rehearsals = 3
    c.study.temperature = 0.8
    c.study.max_question_tokens = 24
    c.study.max_answer_tokens = 48
    c.study.is_grounded = True

    c.seeding = ml_collections.ConfigDict()
    c.seeding.teachers = ()  # further models that read, too: names as of model.name
    c.seeding.teacher_weights = (1.0,)  # of the self that has read, and of each of those
    c.seeding.protocol = "commit_then_clear"  # or "paper"
    c.seeding.steps = 100
    c.seeding.learning_rate = 1e-2
    c.seeding.warmup = 4
    c.seeding.rows = 4
    c.seeding.time = 448
    c.seeding.scored = 320
    c.seeding.dreams = 1  # sequences imitated in each update, `group` rollouts each
    c.seeding.updates_per_rollout = 4  # updates whose rollouts are sampled at once
    c.seeding.reuse = 1  # passes of the updates over these rollouts
    c.seeding.accumulate = 1  # parts that an update's rows are cut into, to save memory
    c.seeding.rollouts_from = 0.0  # share of the steps after which rollouts join
    c.seeding.max_skipped = 5  # updates in a row that are not finite before the night stops
    c.seeding.mode = "joint"  # or "staged": distil, then imitate
    c.seeding.stage = 0.5  # of staged: share of the steps that distil
    c.seeding.alpha = 0.5
    c.seeding.lam = 0.5
    c.seeding.coin = False  # lam as the odds of a coin for each batch, not as a mixture
    c.seeding.divergence = "forward"  # or "reverse", "jsd", "top_k", "sampled" (with lam = 1)
    c.seeding.beta = 0.5  # of jsd: 0 is forward KL, 1 reverse
    c.seeding.top_k = 64  # of top_k
    c.seeding.divergence_temperature = 1.0
    c.seeding.cap = 0.0  # nats that a token's divergence counts at most; 0: no cap
    c.seeding.estimator = "group"  # or reinforce, rloo, grpo, dr_grpo, dapo, gspo, ppo
    c.seeding.skip_truncated = False  # rollouts that were cut off earn and cost nothing
    c.seeding.penalty = "k3"  # or k1, k2: KL to the student before the night
    c.seeding.penalty_weight = 0.0
    c.seeding.entropy_weight = 0.0
    c.seeding.importance_cap = 0.0  # of weights against the sampler's log-probs; 0: no weights
    c.seeding.value_learning_rate = 1e-3  # of PPO's value head
    c.seeding.gamma = 0.5
    c.seeding.group = 8
    c.seeding.cut = (0.1, 0.9)
    c.seeding.cut_beta = (1.0, 1.0)  # the law of the cut over that range: uniform
    c.seeding.threshold = 0.5
    c.seeding.is_relative = True  # the threshold is a share of the longer one, not edits
    c.seeding.unit = "tokens"  # or "characters": what is compared
    c.seeding.max_new_tokens = 32
    c.seeding.rollout_temperature = 1.0
    c.seeding.rollout_top_p = 1.0
    # r_sem: "embedding" (cosine, and agreement of the facts); either of them alone, "cosine" or
    # "agreement"; "exact"; "model", the frozen initial model, asked yes or no in both orders.
    c.seeding.judge = "embedding"

    c.dreaming = ml_collections.ConfigDict()
    c.dreaming.templates = "samples"  # or a .toml file like data/samples/dream_templates.toml
    c.dreaming.instructions = ("facts", "paraphrase")  # names of templates
    c.dreaming.is_plain = False  # SEAL's templates outside any chat: for a base model
    c.dreaming.count = 2  # dreams per document and template
    c.dreaming.temperature = 0.8
    c.dreaming.top_p = 1.0
    c.dreaming.max_new_tokens = 96
    c.dreaming.random_expert = False  # one more a token; needs the sigmoid router and top_k
    c.dreaming.curriculum = ml_collections.ConfigDict()  # the documents that a night is about
    c.dreaming.curriculum.recent = 0  # of the day, those answered worst; 0: all
    c.dreaming.curriculum.weak = 1  # of earlier days, those answered worst: dreamt about anew
    c.dreaming.curriculum.old = 2  # others of earlier days, at random: their dreams are rehearsed
    c.dreaming.curriculum.source = "dreams"  # of earlier ones; or "text", kept to be read again
    c.dreaming.rejection = ml_collections.ConfigDict()  # what is no dream
    c.dreaming.rejection.min_words = 5
    c.dreaming.rejection.max_repeated = 0.5  # share of four-word runs said before
    c.dreaming.rejection.min_script = 0.8  # share of letters in a script of the document
    c.dreaming.rejection.min_known = 0.1  # share of lower-case words that the document has
    c.dreaming.rejection.similarity = 0.8  # of two dreams, from which on they are one; 0: never
    # Or "norm", "inner", "greats", "last_layer", "loss", "lexical", "random".
    c.dreaming.measure = "cosine"  # of importance
    c.dreaming.interaction = 1.0  # of greats: what a dream loses that says what others say
    c.dreaming.top = 1  # kept per document by importance
    c.dreaming.random = 1  # and at random
    c.dreaming.held_out = 2  # own questions per document that reward dreams and are not trained on
    # How the writer learns: "rest_em", the rewarded dreams by heart; or by the policy gradient of
    # all that were tried, as an estimator of seeding, e.g. "grpo" or "ppo", has it.
    c.dreaming.estimator = "rest_em"
    # Or "base": the night's slot learns all anew, dreams and all, by seeding.steps more updates at
    # seeding.learning_rate.
    c.dreaming.restart = "previous"
    c.dreaming.cap = 0  # rewarded dreams of a document that are learnt, the best; 0: all
    c.dreaming.batch = 2  # of a policy gradient: dreams of an update
    c.dreaming.alpha = 0.5  # of a policy gradient: weight of the divergence beside it
    c.dreaming.importance_cap = 2.0  # of a policy gradient: of weights against the sampler
    c.dreaming.steps = 20  # more where each rewarded dream, twice, takes more; 0: no dreams
    c.dreaming.learning_rate = 5e-4
    c.dreaming.cross_entropy = 0.1
    c.dreaming.scorer = "likelihood"  # tau, of its own answers; or exact_match, f1, contains, judge
    c.dreaming.reward = "binary"  # or "margin", "top_1": what a rise of tau earns
    c.dreaming.margin = 0.0  # that a rise has to exceed; SEAL's top_1 asks for none: -inf
    c.dreaming.trial = ml_collections.ConfigDict()
    c.dreaming.trial.rank = 32
    c.dreaming.trial.alpha = 64.0
    c.dreaming.trial.targets = ("gate", "up", "down")  # and of attention, "q", "k", "v", "o"
    c.dreaming.trial.epochs = 5
    c.dreaming.trial.learning_rate = 1e-3
    c.dreaming.trial.schedule = "constant"  # or to 0: "linear", "cosine"
    c.dreaming.trial.batch = 0  # sequences of an update; 0: all
    c.dreaming.trial.clip = 0.0  # largest gradient norm; 0: any
    c.dreaming.trial.split = False  # each line of a dream is a sequence of its own, as in SEAL
    c.dreaming.trial.seeds = 1  # trials of each dream, over which its reward is a mean
    c.dreaming.trial.chunk = 4  # adapters trained at a time, as memory allows

    c.evaluation = ml_collections.ConfigDict()
    c.evaluation.max_new_tokens = 40
    c.evaluation.samples = 3
    return c


def memory_config(c) -> MemoryConfig:
    """The levels below the context.

    Raises:
      ValueError: tables of levels that do not match, or a memory that cannot work.
    """
    fields = dict(c.memory)
    depth = len(fields["chunks"])
    tables = {}
    for name in ("chunks", "slots", "ranks", "learning_rates"):
        values = tuple(fields.pop(name))
        if len(values) not in (1, depth):
            raise ValueError(
                f"memory.{name}={values} has {len(values)} entries, memory.chunks has {depth}; "
                "give one for each level, or one for all"
            )
        tables[name] = values if len(values) == depth else values * depth
    if fields["layers"].replace(",", "").isdigit():
        fields["layers"] = tuple(int(i) for i in fields["layers"].split(",") if i)
    levels = tuple(map(LevelConfig, *tables.values()))
    return MemoryConfig(levels=levels, **fields)


def wake_config(c) -> WakeConfig:
    """How the stream is read."""
    return WakeConfig(**c.wake)


def gate_config(c) -> Gate:
    """When a night is accepted."""
    return Gate(**c.gate)


def lora_config(c) -> LoraConfig:
    """The trial adapter."""
    trial = c.dreaming.trial
    return LoraConfig(rank=trial.rank, alpha=trial.alpha, targets=tuple(trial.targets))


def study_config(c) -> StudyConfig:
    """What the teacher writes.

    Raises:
      ValueError: a setting is not as it should be, or no question is left to reward dreams with.
    """
    if c.dreaming.steps and c.dreaming.held_out < 1:
        raise ValueError(
            f"dreaming.held_out={c.dreaming.held_out} leaves no question that could reward a "
            "dream; give at least 1, or no dreams by dreaming.steps=0"
        )
    return StudyConfig(**c.study)


def seeding_config(c, opening: tuple[int, ...] = ()) -> SeedingConfig:
    """Consolidation; `opening` is what the model's prompts begin with (`BatchShape`)."""
    s = c.seeding
    estimator = surrogate(
        s.estimator,
        length=s.max_new_tokens,
        skip_truncated=s.skip_truncated,
        penalty=s.penalty,
        penalty_weight=s.penalty_weight,
        entropy_weight=s.entropy_weight,
        importance_cap=s.importance_cap or None,
        value_learning_rate=s.value_learning_rate,
    )
    imitation = ImitationConfig(
        gamma=s.gamma,
        group=s.group,
        cut=tuple(s.cut),
        cut_beta=tuple(s.cut_beta),
        threshold=s.threshold,
        is_relative=s.is_relative,
        unit=s.unit,
        max_new_tokens=s.max_new_tokens,
        temperature=s.rollout_temperature,
        top_p=s.rollout_top_p,
        surrogate=estimator,
    )
    divergence = Divergence(
        kind=s.divergence,
        beta=s.beta,
        top_k=s.top_k,
        temperature=s.divergence_temperature,
        cap=s.cap or None,
    )
    objective = Objective(
        alpha=s.alpha,
        lam=s.lam,
        coin=s.coin,
        divergence=divergence,
        surrogate=estimator,
        accumulate=s.accumulate,
    )
    return SeedingConfig(
        steps=s.steps,
        learning_rate=s.learning_rate,
        warmup=s.warmup,
        shape=BatchShape(s.rows, s.time, s.scored, opening),
        dreams=s.dreams,
        updates_per_rollout=s.updates_per_rollout,
        rollouts_from=s.rollouts_from,
        objective=objective,
        imitation=imitation,
        max_skipped=s.max_skipped,
        reuse=s.reuse,
        mode=s.mode,
        stage=s.stage,
    )


def writing_config(c) -> WritingConfig:
    """How dreams are written.

    Raises:
      ValueError, OSError: a setting or the file of templates is not as it should be.
    """
    d = c.dreaming
    templates = choose_templates(
        read_templates(d.templates), tuple(d.instructions), bool(d.is_plain)
    )
    if recipes := [template.name for template in templates if template.writes == "recipe"]:
        raise ValueError(
            f"dreaming.instructions names {recipes[0]!r}, which asks how to practise a grid "
            "task, and a night reads documents; leave it out (experiments/few_shot_grids has grids)"
        )
    return WritingConfig(
        templates=templates,
        count=d.count,
        temperature=d.temperature,
        top_p=d.top_p,
        max_new_tokens=d.max_new_tokens,
        random_expert=d.random_expert,
        rejection=Rejection(**d.rejection),
    )


def curriculum_config(c) -> CurriculumConfig:
    """What a night dreams about."""
    return CurriculumConfig(**c.dreaming.curriculum)


def selection_config(c) -> SelectionConfig:
    """Which dreams are tried."""
    d = c.dreaming
    return SelectionConfig(d.measure, d.top, d.random, d.interaction)


def reinforcing_config(c, opening: tuple[int, ...] = ()) -> SeedingConfig:
    """Learning from dreams: the cross-entropy of rewarded ones beside the divergence and, unless it
    is ReST-EM, the policy gradient of all; nothing is rolled out.

    Raises:
      ValueError: a setting is not as it should be.
    """
    _check_reinforcing(c.dreaming)
    if c.dreaming.restart == "base" and c.memory.on_full == "reuse":
        raise ValueError(
            "dreaming.restart='base' with memory.on_full='reuse' would empty a slot that holds "
            "earlier nights; set dreaming.restart='previous', or another memory.on_full"
        )
    d, seeding = c.dreaming, seeding_config(c, opening)
    divergence = seeding.objective.divergence
    if divergence.kind == "sampled":  # without rollouts: what it estimates, in full
        divergence = dataclasses.replace(divergence, kind="reverse")
    imitation, alpha, policy = seeding.imitation, 1.0, Surrogate()
    if d.estimator != "rest_em":
        alpha = d.alpha
        # A night's dreams are one round, which begins before a critic has learnt: with values
        # of 0 and lambda = 1 all tokens of a dream are credited with what it earned.
        values = {"gae": 1.0} if ALGORITHMS[d.estimator].get("gae") else {}
        policy = surrogate(
            d.estimator,
            **values,
            length=d.max_new_tokens,
            importance_cap=d.importance_cap,
            value_learning_rate=c.seeding.value_learning_rate,
        )
        drawn = {"temperature": d.temperature, "top_p": d.top_p}
        imitation = dataclasses.replace(imitation, surrogate=policy, **drawn)
    steps, learning_rate = d.steps, d.learning_rate
    if d.restart == "base":
        steps, learning_rate = seeding.steps + d.steps, seeding.learning_rate
    return SeedingConfig(
        steps=steps,
        learning_rate=learning_rate,
        warmup=min(seeding.warmup, steps - 1),
        shape=seeding.shape,
        dreams=d.batch if alpha < 1 else 0,
        updates_per_rollout=1,
        reuse=max(steps, 1),  # the same dreams, again and again
        rollouts_from=0.0,
        objective=Objective(
            alpha=alpha,
            lam=0.0,
            cross_entropy=d.cross_entropy,
            surrogate=policy,
            divergence=divergence,
            accumulate=seeding.objective.accumulate,
        ),
        imitation=imitation,
        max_skipped=seeding.max_skipped,
    )


def _check_reinforcing(d) -> None:
    """What `reinforcing_config` raises."""
    if d.steps < 0:
        raise ValueError(f"dreaming.steps={d.steps}; give updates, or 0 for no dreams")
    if d.cap < 0:
        raise ValueError(f"dreaming.cap={d.cap}; give dreams of a document, or 0 for all")
    for name, known in (
        ("estimator", ("rest_em", *ALGORITHMS)),
        ("restart", ("previous", "base")),
    ):
        if d[name] not in known:
            raise ValueError(f"dreaming.{name}={d[name]!r}; choose from {', '.join(known)}")
    if d.estimator == "rest_em":
        return
    if d.restart == "base":
        raise ValueError(
            f"dreaming.restart='base' with dreaming.estimator={d.estimator!r}: a policy gradient "
            "goes on from the self that wrote; set dreaming.restart='previous', or "
            "dreaming.estimator='rest_em'"
        )
    if not 0 <= d.alpha < 1 or d.batch < 1:
        raise ValueError(
            f"dreaming.alpha={d.alpha}, dreaming.batch={d.batch} leave dreaming.estimator="
            f"{d.estimator!r} nothing to learn from; give an alpha in [0, 1) and a batch of 1 or "
            "more, or choose 'rest_em'"
        )
    if not d.importance_cap > 0:
        raise ValueError(
            f"dreaming.importance_cap={d.importance_cap} with dreaming.estimator={d.estimator!r}: "
            "the evening's self writes, and another one learns; give a cap of their ratio, 2 is "
            "usual, or choose 'rest_em'"
        )


def trial_config(c) -> TrialConfig:
    """One trial; its adapter is `lora_config`."""
    adapter = {field.name for field in dataclasses.fields(LoraConfig)}
    return TrialConfig(**{k: v for k, v in c.dreaming.trial.items() if k not in adapter})


def reward_config(c) -> RewardConfig:
    """What a dream earns.

    Raises:
      ValueError: a scorer that the model's own questions are not made for.
    """
    d = c.dreaming
    if d.scorer in SCORERS and d.scorer not in IN_WORDS:
        raise ValueError(
            f"dreaming.scorer={d.scorer!r} needs answers of its kind, but a night asks what the "
            f"model itself wrote; choose from {', '.join(IN_WORDS)}"
        )
    return RewardConfig(scorer=d.scorer, form=d.reward, margin=d.margin)
