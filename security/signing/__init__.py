"""Signatures over bundles: OpenSSF Model Signing v1.0, and ML-DSA-65 beside it.

`model.sig` is an OMS v1.0 signature by an ECDSA key, which other OMS tools verify.
`model.sig.mldsa65` is an ML-DSA-65 signature over the very same bytes, so that
forging a bundle needs both algorithms broken. Both are required, from one signer.

`dsse` is the envelope's encoding, `oms` the two JSON documents, `mldsa` the sidecar,
`signers` the keys. Of OMS's methods only "key" is supported: certificates and
Sigstore identities are another trust model than ours.
"""
