"""Settings: `P4R_*` environment variables over an optional `p4r.toml`.

`P4R_QDRANT__URL` is `settings.qdrant.url`; in p4r.toml it is `url` under `[qdrant]`. An unknown
name is an error that names the nearest known one. Names that begin with `P4R_TEST_` are ignored:
they belong to the tests. `Settings.catalogue()` lists every setting with its description.
"""

from p4r_qdrant.settings.catalogue import Setting
from p4r_qdrant.settings.collaborative import CollaborativeSettings
from p4r_qdrant.settings.encoder import EncoderSettings, HistorySettings
from p4r_qdrant.settings.index import IndexSettings, QdrantSettings, is_tenant_name
from p4r_qdrant.settings.llm import OPENAI_HOST, LLMSettings, LLMStepSettings, StepModel
from p4r_qdrant.settings.loading import CONFIG_FILE, TENANTS, Settings, naming_tenant
from p4r_qdrant.settings.reasoning import ReasoningSettings
from p4r_qdrant.settings.rerank import RerankSettings
from p4r_qdrant.settings.service import ServiceSettings
from p4r_qdrant.settings.training import TrainingSettings

__all__ = [
    "CONFIG_FILE",
    "OPENAI_HOST",
    "TENANTS",
    "CollaborativeSettings",
    "EncoderSettings",
    "HistorySettings",
    "IndexSettings",
    "LLMSettings",
    "LLMStepSettings",
    "QdrantSettings",
    "ReasoningSettings",
    "RerankSettings",
    "ServiceSettings",
    "Setting",
    "Settings",
    "StepModel",
    "TrainingSettings",
    "is_tenant_name",
    "naming_tenant",
]
