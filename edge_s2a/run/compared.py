"""Says in words how a training compares with what was learned in one pass before it."""

from edge_s2a.run import text
from edge_s2a.run.schema import ComparedFacts


def describe(compared: ComparedFacts) -> str:
    """Says how many images were held out, and how often each is right about them."""
    values = (("learned in one pass", compared.learned_accuracy), ("trained", compared.trained_accuracy))
    texts = [f"{name} {percent(value)}" for name, value in values]
    return f"{compared.images} images: {', '.join(texts)}, kept {percent(compared.accuracy)}"


def kept(compared: ComparedFacts) -> str:
    """Says what RUN/best.safetensors holds."""
    share = compared.share
    if share is None:
        return "unknown"
    if share == 0:
        return "what was learned in one pass; training made it no better"
    if share == 1:
        return "the trained adapter alone"
    return f"both; {100 * share:.0f} % of the answer is the trained adapter's"


def percent(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else text.percent(accuracy)
