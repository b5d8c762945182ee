"""For tests, ours and those of plugins: small models, and the contracts of models and of sources."""

from vitscope.testing.contracts import AdapterContract as AdapterContract
from vitscope.testing.contracts import StructureContract as StructureContract
from vitscope.testing.doubles import SPREAD as SPREAD
from vitscope.testing.doubles import stirred as stirred
from vitscope.testing.doubles import tiny_cnn as tiny_cnn
from vitscope.testing.doubles import tiny_vit as tiny_vit
from vitscope.testing.sources import SourceContract as SourceContract
