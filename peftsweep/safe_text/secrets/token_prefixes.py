"""Which tokens are recognised by their prefix? One table, from what their makers and public scanners document."""

from __future__ import annotations

import re

_END = r"(?![A-Za-z0-9])"
# What may precede a token: no part of a word, or a character that is encoded in an address or a Python string.
BEGIN = r"(?:(?<![A-Za-z0-9_])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrtbf]))"

# Prefix, then what follows it.
TOKENS = {
    # stores of models, data and runs
    r"hf_": r"[A-Za-z0-9]{16,}",
    r"api_org_": r"[A-Za-z0-9]{16,}",
    r"KGAT_": r"[A-Za-z0-9]{16,}",  # Kaggle
    r"wandb_v\d_": r"\w{16,}",
    r"dapi": r"[0-9a-f]{16,}(?:-\d)?",  # Databricks
    # providers of models
    r"sk-(?:proj|ant|or|svcacct|admin|lf|cp)-": r"[\w-]{12,}",  # OpenAI, Anthropic, OpenRouter
    r"sk-": r"[A-Za-z0-9]{20,}",
    r"gsk_": r"[A-Za-z0-9]{20,}",  # Groq
    r"xai-": r"[A-Za-z0-9]{20,}",
    r"pplx-": r"[A-Za-z0-9]{20,}",
    r"csk-": r"[A-Za-z0-9]{20,}",  # Cerebras
    r"nvapi-": r"[\w-]{20,}",
    r"r8_": r"[A-Za-z0-9]{20,}",  # Replicate
    r"jina_": r"[A-Za-z0-9]{20,}",
    r"tgp_v\d_": r"[\w-]{20,}",  # Together
    r"fw_": r"[A-Za-z0-9]{20,}",  # Fireworks
    r"pcsk_": r"\w{20,}",  # Pinecone
    r"lsv2_(?:pt|sk)_": r"\w{20,}",  # LangSmith
    # code hosting and packages
    r"gh[pousr]_": r"[A-Za-z0-9]{16,}",
    r"github_pat_": r"\w{20,}",
    r"gl(?:pat|dt|rt|rtr|ptt|cbt|oas|ft|soat|imt|agent|ffct|wt)-": r"[\w.-]{16,}",  # GitLab
    r"ATBB": r"[A-Za-z0-9]{24,}",  # Bitbucket
    r"AT(?:ATT|CTT)3": r"[\w=-]{20,}",  # Atlassian
    r"npm_": r"[A-Za-z0-9]{30,}",
    r"pypi-AgE": r"[\w-]{16,}",
    r"rubygems_": r"[0-9a-f]{32,}",
    r"dckr_[a-z]{3}_": r"[\w-]{16,}",  # Docker
    r"sntry[su]_": r"[\w+/=-]{20,}",  # Sentry
    r"sqp_|squ_": r"[0-9a-f]{32,}",  # SonarQube
    # clouds and databases
    r"A(?:KIA|SIA|BIA|CCA|3T[A-Z0-9])": r"[A-Z0-9]{16}",  # Amazon
    r"ABSK": r"[A-Za-z0-9+/]{60,}={0,2}",
    r"AIza": r"[\w-]{30,}",  # Google
    r"GOCSPX-": r"[\w-]{20,}",
    r"ya29\.": r"[\w-]{20,}",
    r"LTAI": r"[A-Za-z0-9]{16,}",  # Alibaba
    r"do[opr]_v1_": r"[0-9a-f]{32,}",  # DigitalOcean
    r"AVNS_": r"[\w-]{16,}",  # Aiven
    r"npg_|napi_": r"[A-Za-z0-9]{10,}",  # Neon
    r"pscale_(?:tkn|pw|oauth)_": r"[\w.=-]{20,}",
    r"sb[ps]?_(?:secret_)?": r"[A-Za-z0-9]{32,}",  # Supabase
    r"hv[bsr]\.": r"[\w-]{20,}",  # Vault
    r"[A-Za-z0-9]{14}\.atlasv1\.": r"[\w=-]{32,}",
    r"pul-": r"[0-9a-f]{32,}",  # Pulumi
    r"tskey-": r"[\w-]{16,}",  # Tailscale
    r"dp\.(?:pt|st|ct|sa|scim|audit)\.": r"[\w.-]{32,}",  # Doppler
    r"ops_eyJ": r"[\w+/=-]{40,}",  # 1Password
    r"AGE-SECRET-KEY-1": r"[0-9A-Z]{40,}",
    # messages, monitoring and payment
    r"xox[a-z](?:\.xox[a-z])?-": r"[\w-]{10,}",  # Slack
    r"T[A-Z0-9]{8,12}/[AB][A-Z0-9]{8,12}/": r"[\w/]{16,}",  # its webhooks
    r"xapp-|xwfp-": r"[\w-]{16,}",
    r"gl(?:sa|c)_": r"[\w+/=]{20,}",  # Grafana
    r"NRAK-": r"[A-Z0-9]{20,}",  # New Relic
    r"lin_api_": r"[A-Za-z0-9]{20,}",
    r"ntn_": r"[A-Za-z0-9]{30,}",  # Notion
    r"figd_": r"[\w-]{20,}",
    r"PMAK-": r"[0-9a-f-]{30,}",
    r"SG\.": r"[\w-]{16,}\.[\w-]{16,}",  # SendGrid
    r"(?:[srp]k|rk)_(?:live|test|prod)_": r"[A-Za-z0-9]{10,}",  # Stripe
    r"whsec_": r"[\w+/=]{20,}",
    r"shp(?:at|ca|pa|ss)_": r"[0-9a-fA-F]{32}",  # Shopify
    r"(?:bot)?\d{8,10}:AA": r"[\w-]{32,}",  # Telegram
    r"[MNO][\w-]{23,25}\.": r"[\w-]{6}\.[\w-]{27,}",  # Discord
    # used by many services
    r"(?<!-)eyJ": r"[\w-]{8,}(?:\.[\w-]*){2,4}",  # JSON web token, signed or encrypted
}
SHAPES = re.compile(f"{BEGIN}(?:{'|'.join(f'(?:{begins}){rest}' for begins, rest in TOKENS.items())}){_END}")
# Private keys in PEM format: complete, or as much as there is, as long runs of base64.
KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]{0,40}-----")
KEY_LINE = re.compile(r"[\s>|]*(?:[A-Za-z0-9+/=]*|[A-Z][\w-]{1,20}: ?\S*)\s*")  # a line inside the key
PRIVATE_KEY = re.compile(
    rf"{KEY_BEGINS.pattern}(?:(?:(?!-----).)*{KEY_ENDS.pattern}"
    r"|(?:[\s>|'\"\\]{0,20}[A-Za-z0-9+/=]{16,}+)*(?:[\s>|'\"\\]{1,20}[A-Za-z0-9+/]{1,62}={1,2})?)",
    re.DOTALL,
)
