"""The image rows of ``suite3d list``: name, family, paper, target, what it was held against."""

from __future__ import annotations

ROWS: tuple[tuple[str, str, str, str, str, str], ...] = (
    # name, family, paper, module:Dataclass, needs, checked
    ("mae", "masked modelling", "MAE, CVPR 2022", "masked:MAERecipe", "pictures only", "loss equal to the definition"),
    ("simclr", "contrastive", "SimCLR, ICML 2020 (and DCL, ECCV 2022)", "contrastive:SimCLRRecipe", "pictures only", "loss equal to the definition"),
    ("pixpro", "dense", "PixPro and PixContrast, CVPR 2021", "dense:PixProRecipe", "pictures only", "loss equal to the definition"),
    ("crop_mae", "masked modelling", "CropMAE, ECCV 2024", "cross_view:CropMAERecipe", "pictures only", "loss equal to the definition"),
    ("colormae", "masked modelling", "ColorMAE, ECCV 2024", "masked:ColorMAERecipe", "pictures only", "loss equal to the definition"),
    ("moco", "contrastive", "MoCo v2, 2020 (and MoCHi, NeurIPS 2020)", "contrastive:MoCoRecipe", "pictures only", "loss equal to the definition"),
    ("dino", "self-distillation", "DINO, ICCV 2021", "distillation:DINORecipe", "pictures only", "loss equal to the definition"),
    ("spark", "masked modelling", "SparK, ICLR 2023", "spark:SparKRecipe", "pictures only", "definition; sparse equal to masked dense"),
    (
        "siam_mae",
        "masked modelling",
        "SiamMAE, NeurIPS 2023",
        "cross_view:SiamMAERecipe",
        "two pictures of each scene",
        "loss equal to the definition",
    ),
    ("croco", "masked modelling", "CroCo, NeurIPS 2022", "cross_view:CroCoRecipe", "two pictures of each scene", "loss equal to the definition"),
    ("gmml", "masked modelling", "GMML, 2022", "masked:GMMLRecipe", "pictures only", "loss equal to the definition"),
    ("barlow_twins", "decorrelation", "Barlow Twins, ICML 2021", "contrastive:BarlowTwinsRecipe", "pictures only", "loss equal to the definition"),
    ("cae", "masked modelling", "CAE, IJCV 2023", "cross_view:CAERecipe", "pictures only", "loss equal to the definition"),
    ("ibot", "self-distillation", "iBOT, ICLR 2022", "distillation:IBOTRecipe", "pictures only", "loss equal to the definition"),
    ("swav", "clustering", "SwAV, NeurIPS 2020", "contrastive:SwAVRecipe", "pictures only", "loss equal to the definition"),
    ("sit", "masked modelling", "SiT, 2021", "masked:SiTRecipe", "pictures only", "loss equal to the definition"),
    ("lejepa", "joint embedding", "LeJEPA, 2025", "contrastive:LeJEPARecipe", "pictures only", "loss equal to the definition"),
    ("selfie", "masked modelling", "Selfie, 2019", "cross_view:SelfieRecipe", "pictures only", "loss equal to the definition"),
    ("rotnet", "pretext task", "RotNet, ICLR 2018", "contrastive:RotNetRecipe", "pictures with an up and a down", "loss equal to the definition"),
    ("slotcon", "dense", "SlotCon, NeurIPS 2022", "dense:SlotConRecipe", "pictures only", "loss equal to the definition"),
    ("dmjd", "masked modelling", "DMJD, TMM 2023", "masked:DMJDRecipe", "pictures only", "loss equal to the definition"),
    (
        "mmc",
        "masked modelling and distillation",
        "MMC, 2023",
        "cross_view:MMCRecipe",
        "pictures only",
        "loss equal to our definition; the paper's details are open",
    ),
    ("cmim", "contrastive auto-encoder", "cMIM, 2025", "contrastive:CMIMRecipe", "pictures only", "loss equal to the definition"),
    ("obow", "self-distillation", "OBoW, CVPR 2021", "distillation:OBoWRecipe", "pictures only", "loss equal to the definition"),
    ("mixed_ae", "masked modelling", "MixedAE, CVPR 2023", "masked:MixedAERecipe", "pictures only", "loss equal to the definition"),
    ("seq_jepa", "latent prediction", "seq-JEPA, 2025", "dense:SeqJEPARecipe", "pictures only", "loss equal to the definition"),
    ("umd", "masked modelling", "UMD, 2024", "cross_view:UMDRecipe", "pictures only", "loss equal to the definition"),
    ("mugs", "self-distillation", "Mugs, 2022", "distillation:MugsRecipe", "pictures only", "loss equal to the definition"),
)
