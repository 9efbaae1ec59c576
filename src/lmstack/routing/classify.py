"""Rate how hard a prompt is, for ``auto`` and for `lm route`: a linear score over features that can be explained.

The features are ours. bench/routing/train.py fits the weights on one half of its labelled prompts. Only a bounded part
of each text is read, so that the time does not grow with the prompt.
"""

import math
import re
from dataclasses import dataclass

from lmstack.routing import candidates
from lmstack.routing.weights import CUTS, WEIGHTS

GROUPS = tuple(candidates.GROUPS)
# The task is at the beginning or at the end of a prompt. What is between them is material.
HEAD, TAIL = 400, 250
# The turns of a conversation that are rated: the first one, and this many of the last ones. Every request rates them
# all, so that every worker chooses the same group. Cached scores make that cheap.
LAST_TURNS = 40


@dataclass(frozen=True, slots=True)
class Complexity:
    """``score`` is compared with CUTS; ``signals`` are the shares of each feature in it, the largest first."""

    score: float
    group: str
    signals: tuple[tuple[str, float], ...]


def classify(text: str) -> Complexity:
    """Return the complexity of one prompt."""
    shares = [(name, WEIGHTS[name] * value) for name, value in features(text).items() if value and name in WEIGHTS]
    score = sum(share for _, share in shares)
    return Complexity(score, group_of(score), tuple(sorted(shares, key=lambda s: -abs(s[1]))))


def group_of(score: float) -> str:
    """Return the group for a score."""
    return GROUPS[sum(score >= cut for cut in CUTS)]


def conversation_group(turns: list[str]) -> str:
    """Return the group of the hardest user turn, so that a conversation never goes down a tier.

    A "thanks" after a hard question stays with the model that answered it.
    """
    if not turns:
        return GROUPS[0]
    counted = turns if len(turns) <= LAST_TURNS else [turns[0], *turns[-LAST_TURNS:]]
    return group_of(max(_score(turn) for turn in counted))


def features(text: str) -> dict[str, float]:
    """Return the features of a prompt. Every value is between 0 and about 3."""
    task = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"
    task = task.lower()
    opening = task.lstrip()[:90]
    # A Chinese character carries about as much meaning as three letters.
    wide = 0 if task.isascii() else len(_WIDE.findall(task))
    size = len(task) + 2 * wide
    found = {name: min(3.0, float(len(pattern.findall(task)))) for name, pattern in _COUNTED.items()}
    found |= {name: float(bool(pattern.search(opening))) for name, pattern in _OPENING.items()}
    found["size"] = min(3.0, math.log1p(size / 40))
    found["tiny"] = float(size < 25)
    words = _WORD.findall(task)
    # Academic and technical prose has longer words, in every language with an alphabet.
    found["long_words"] = min(3.0, 6 * sum(len(word) > 8 for word in words) / max(8, len(words)))
    found["clauses"] = min(3.0, len(_CLAUSE.findall(task)) / 2)
    found["numbers"] = min(3.0, len(_NUMBER.findall(task)) / 2)
    found["code"] = min(3.0, len(_CODE.findall(task)) / 6)
    found["pasted"] = float(len(text) > HEAD + TAIL)
    found["quoted"] = float(bool(_QUOTED.search(task)))
    # A story with several quantities and a question is a word problem, however short.
    found["story"] = float(
        found["numbers"] >= 1 and size > 55 and ("?" in task or "？" in task) and not found["choices"]
    )
    # A trivial opening names the task for everything that follows.
    found["trivial_only"] = float(bool(found["trivial"] and not (found["prove"] or found["build"] or found["analyse"])))
    return found


def _any(*words: str) -> "re.Pattern[str]":
    """Compile words of several languages into one pattern. Chinese has no spaces, so it needs no word boundary."""
    spaced = [word for word in words if word.isascii() or not _WIDE.search(word)]
    other = [word for word in words if word not in spaced]
    parts = [rf"\b(?:{'|'.join(spaced)})"] if spaced else []
    return re.compile("|".join([*parts, *other]))


_WIDE = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_CLAUSE = re.compile(r"[,;:，；：、]|\b(?:and|und|et|y)\b")
_WORD = re.compile(r"[^\W\d_]{2,}")
_NUMBER = re.compile(r"\d+")
_CODE = re.compile(r"[{}();=<>\[\]]")
_QUOTED = re.compile('["“„«‘].{4,}["”“»’]|: \\S|：\\S')

_COUNTED = {
    "prove": _any(
        "prov(?:e|ing)\\b", "proof", "show that", "deriv(?:e|ation)\\b", "justify", "argue why", "and why\\b", "characteri[sz]e",
        "beweis", "zeige", "begründe", "herleit", "und warum",
        "démontr", "montre que", "prouve", "justifie", "construis",
        "demuestra", "prueba que", "justifica", "demostr", "caracteriza",
        "证明", "推导", "论证", "说明理由",
    ),
    "build": _any(
        "implement", "design", "architect", "optimi[sz]e", "migrat", "restructure", "investigate", "reproduce", "bisect", "port this",
        "upgrade", "rewrite the", "from scratch", "replace it", "work out", "reconstruct", "build a",
        "entwirf", "entwickle", "implementier", "erstelle", "umstellung",
        "conçois", "implémente", "élabore", "développe",
        "diseña", "implementa", "elabora", "desarrolla",
        "设计", "实现", "制定", "构建",
    ),
    "analyse": _any(
        "analy[sz]e", "evaluate", "assess", "critique", "discuss", "propose", "hypothes", "trade-?offs?", "strateg", "failure modes?",
        "scenario", "assumption", "milestone", "rollback", "recommend", "quantify", "root cause", "forecast", "estimate how",
        "analysier", "bewerte", "prüfe", "risiken", "gegenposition",
        "analyse", "critique", "identifie", "propose un", "scénario",
        "analiza", "evalúa", "señala", "propón", "riesgos", "supuestos",
        "分析", "评估", "指出", "提出", "战略", "风险",
    ),
    "explain": _any(
        "explain", "why\\b", "how do(?:es)?\\b", "compare", "difference between", "what happens", "step by step",
        "erklär", "vergleiche", "warum", "unterschied",
        "expliqu", "pourquoi", "compare", "différence", "avantages",
        "explica", "por qué", "compara", "diferencia",
        "解释", "比较", "为什么", "区别",
    ),
    "make": _any(
        "write an?\\b", "write unit", "draft", "plan\\b", "refactor", "suggest", "solve", "find\\b", "calculate", "make a", "run the", "search",
        "schreibe", "plane\\b", "löse", "berechne", "écris", "rédige", "propose", "résous", "calcule",
        "escribe", "redacta", "organiza", "calcula", "resuelve", "写一", "安排", "解方程", "用python",
    ),
    "trivial": _any(
        "translat", "typos?\\b", "spell", "summari[sz]e", "capitali[sz]e", "synonym", "rename", "shorten", "headline", "bullet points",
        "polite", "passive voice", "extract", "convert", "format this", "classify", "hello world", "one[- ](?:line|sentence)", "pick the",
        "comment", "docstring", "turn this", "stand for",
        "übersetze", "rechtschreib", "fasse .* zusammen", "höflicher", "in einem satz", "anderes wort", "nenne",
        "tradui[st]", "corrige", "résume", "en une phrase", "pluriel", "veut dire",
        "traduce", "ortografía", "resume", "en una frase", "significa", "más corta",
        "翻译", "总结", "一句话", "改得", "近义词", "提到",
    ),
    "deep": _any(
        "theorem", "irrational", "primes?\\b", "integral", "bijection", "compact", "homeomorph", "isomorph", "finite", "group of order", "transcend",
        "distribution of", "continuous", "convergen", "countermodel", "valid\\?", "undecidable", "paradox", "expected", "probability that",
        "lock-free", "wait-free", "linearizab", "deadlock", "consensus", "raft\\b", "paxos", "garbage collect", "compiler", "parser", "type check",
        "memory model", "distributed", "data cent(?:re|er)s", "partition", "p99", "concurren", "malloc", "kernel", "idempot", "throughput", "fail-?over", "stale",
        "causal", "confound", "liability", "incentive", "unit economics", "equilibrium",
        "konvergi", "divergiert", "primzahl", "verteilt", "nullstellen", "ansprüche", "annahmen",
        "premiers", "dénombrable", "distribué", "cohérence", "dérivable", "paradoxe", "biais", "sûreté",
        "primos", "desigualdad", "concurrente", "interbloqueos", "idempotente", "paradoja", "hipótesis",
        "素数", "整环", "分布式", "并发", "复杂度", "均衡", "博弈", "假设", "责任", "函数",
    ),
    "all": _any("every\\b", "each\\b", "all\\b", "infinitely", "for which", "jede", "toute?s?\\b", "cada\\b", "todas?", "任意", "所有", "每"),
    "maths": re.compile(r"\b[a-z]\s?\(?[xyn]\)?\s?[=^+*/<>-]|\^|\\(?:int|sum|frac)|[∫∑√≤≥∈]|\b\d*x\b"),
    "choices": re.compile(r"(?:^|\s)\(?[a-d][.)]\s"),
}  # fmt: skip
_OPENING = {
    "fact": _any(
        "what(?:'s| is| does| year)\\b", "who\\b", "when\\b", "where\\b", "which\\b", "how (?:many|far|much|long)\\b", "name (?:three|two)", "define", "is an?\\b", "tell me",
        "was (?:ist|bedeutet)", "wer\\b", "wie (?:viel|viele)\\b", "welche", "in welchem",
        "quel(?:le)?\\b", "qui\\b", "que veut", "combien", "qu'est",
        "¿?cuál", "¿?quién", "¿?cuánt", "¿?qué",
        "哪", "谁", "多少", "什么",
    ),
    "greeting": re.compile(
        r"^\W*(?:hi|hello|hey|thanks|thank you|ok|yes|no|good (?:morning|evening)|continue|hallo|danke|guten|bonjour|salut|merci|hola|gracias|muchas gracias|你好|谢谢)\b|^(?:你好|谢谢)"
    ),
    "howto": _any("how (?:do|can) i\\b", "which (?:command|port)", "wie schreibe ich", "comment \\w+er\\b", "¿?cómo se", "怎么"),
}  # fmt: skip

# Cached scores of turns: every request repeats the whole conversation. The cache keeps no prompt.
_scores: dict[tuple[int, str], float] = {}
_MAX_SCORES = 20_000


def _score(turn: str) -> float:
    # Two turns may have the same hash. Their first and last characters tell them apart.
    key = (hash(turn), turn[:20] + turn[-20:])
    score = _scores.get(key)
    if score is None:
        if len(_scores) >= _MAX_SCORES:
            _scores.clear()
        score = _scores[key] = classify(turn).score
    return score


__all__ = ["GROUPS", "Complexity", "classify", "conversation_group", "features", "group_of"]
