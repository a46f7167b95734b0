"""The IDP paper's own experiments on your copy of its data: ImageNet in folders, MNLI as JSON lines or Parquet.

| configuration | network, zeros of prunable | the paper reports | best other there |
| --- | --- | --- | --- |
| `mobilenet_v1.toml` | MobileNet-v1, 86.6 % | 68.2 % top-1 on ImageNet | 65.9 % |
| `resnet18.toml` | ResNet-18, 85.5 % | 69.5 % top-1 on ImageNet | 68.7 % |
| `bert_mnli.toml` | BERT-base, 90 % | 83.1 % on MNLI, matched | 81.5 % |

Source: the IDP submission to ICLR 2023; the first and last row also in its successor, PDP (Cho, Adya, Naik,
arXiv 2305.11203). They were not repeated here, and nothing in this folder knows them: a run reports what it measures.
Schedule, temperature, allocation and the shares of distillation are the paper's; optimizer, learning rate, weight
decay and batch size are common choices for these networks, marked as ours in the files.

ImageNet lies in `imagenet/train/<class>/*.JPEG` and `imagenet/val/<class>/*.JPEG`. From the folder of this repository:

    python -m sample_models.recipes.fresh "sample_models.mobilenet_v1:build(classes=1000)" -o mobilenet_v1.pt
    idp-deploy prune mobilenet_v1.pt --config sample_models/recipes/mobilenet_v1.toml

The paper trains from fresh weights, and so do the two lines; `resnet18.toml` goes the same way. MNLI lies in `mnli/`
as `train.jsonl` and `dev_matched.jsonl` (or `.parquet`) beside the `vocab.txt` of the BERT that is to be pruned, which
has been fine-tuned on MNLI before: it is also the teacher.

    python -m sample_models.recipes.bert_weights bert-base-uncased-mnli.safetensors -o bert.pt
    idp-deploy prune bert.pt --config sample_models/recipes/bert_mnli.toml

Data elsewhere: `--task "sample_models.recipes.image_folder:task(folder='/data/imagenet')"`. Needs
`pip install 'idp-deploy[recipes]'`.
"""
