"""TLC, projection and the rivals: each takes activations out in its own way, all else is the same.

A method is one file and one line in ``METHODS``. What is shared, and what "fair" means here: the
dense parent, the data, the budget of tuning epochs, the recipe (learning rate, distillation from
the parent, seeds), the splits (choices on val, test touched once) and the tested merge at the end.
"""

from ..rank import RULES
from ..stages import METHODS, Method
from .blocks import blocks
from .easier import easier
from .egp import egp
from .lacoot import lacoot_without_regulariser
from .layer_folding import layer_folding
from .project import project
from .published import cut_constants, published, reference
from .rankings import entropy, magnitude
from .tlc import at_once, one_by_one, random, spare

METHODS["at_once"] = Method(at_once, {"lr": 0.1})
METHODS |= {"one_by_one": Method(one_by_one), "random": Method(random)}
METHODS |= {"project": Method(project, {"lr": 0.2}), "blocks": Method(blocks, {"lr": 0.1})}
METHODS["published"] = Method(published, {"distil": False}, cut_constants)
METHODS |= {m.__name__: Method(m) for m in (easier, egp, layer_folding, lacoot_without_regulariser)}
RULES |= {r.__name__: r for r in (entropy, magnitude, reference, spare)}
