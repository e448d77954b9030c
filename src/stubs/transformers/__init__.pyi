"""The names of transformers that the library uses. The package's own `__init__` imports every model of it, which takes a
type checker a quarter of its time."""

from typing import Any

from transformers.modeling_utils import PreTrainedModel as PreTrainedModel
from transformers.models.gemma3.configuration_gemma3 import Gemma3Config as Gemma3Config
from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig as Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForConditionalGeneration as Gemma3ForConditionalGeneration
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig as SiglipVisionConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase as PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast as PreTrainedTokenizerFast

def __getattr__(name: str) -> Any: ...  # names that only other libraries use
