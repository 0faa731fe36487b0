"""Work with other libraries: PEFT's adapters, TransformerLens's caches, Hugging Face's hub."""

from skillneurons.interop.cache import collect_cached as collect_cached
from skillneurons.interop.hub import RunFiles as RunFiles
from skillneurons.interop.hub import pull_run as pull_run
from skillneurons.interop.hub import push_run as push_run
from skillneurons.interop.peft import load_peft as load_peft
from skillneurons.interop.peft import save_peft as save_peft
