"""Help of the methods: the options that most runs need. It imports nothing, so that it is printed at once."""

from __future__ import annotations

_NETWORK_AND_RUN = """\
The network:
  --network NAME     efficientnet_lite0 (default), torchvision/NAME,
                        timm/NAME, transformers/ORG/NAME, or
                        package.module:factory
  --network.weights FILE
                        .pth, .safetensors or .ckpt; none for random weights
  --network.labels FILE
                        one class name per line
  --output NAME         what a network that is no classifier returns (region,
                        detection, module:function ...; docs/any_network.md)
  --network.size N   --network.mean, --network.std: those of the
                        training, for a network that does not publish them

The run:
  --out RUN             run folder [runs/{method}/<time>_<first target>]
  --overwrite           replace the run in this folder
  --resume              continue the run in this folder
  --count               only print the number of evaluations and the time
  --logger NAMES        wandb,tensorboard,mlflow,csv, or none [wandb]
  --wandb MODE          auto, online, offline or disabled [auto]
  --project NAME        W&B project or MLflow experiment
  --figure FORMAT       png, pdf or svg [png]
  --devices N           devices that share the images [1]
  --trainer.accelerator NAME
                        cpu, gpu ... [auto]
  --trainer.precision NAME
                        32-true, 16-mixed or bf16-mixed
  --print_config        print all options and their values

All options: lit-viz {method} --help-all
"""

_VISUALIZE = """\
usage: lit-viz visualize [CLASS ...] [--config NAME] [--out RUN] ...

Images of classes, or of the channels of a layer, from noise or a photograph.

Example: lit-viz visualize tarantula goldfish --iterations 200
         lit-viz visualize --layer blocks.3.2 --channel 3,14-20

What is shown:
  CLASS ...             names or indices (lit-viz classes PART)
  --against CLASS       class that they are contrasted with
  --layer NAME          layer instead of classes (lit-viz layers)
  --channel 3,14-20     its channels, or all; null: the whole layer
  --neuron 3,4          position in the channels: row,column or centre
  --init PHOTOGRAPH     image to start from; default: noise

How:
  --config NAME         a YAML file, or one of tarantula (default), channels
                        (that of --layer), thorough, small, vit, maco,
                        deepdream, deepinversion, diversity, from_photograph,
                        plain_fourier, simonyan_squeezenet,
                        simonyan_squeezenet1_1, vgg16
  --iterations N        updates per image [228]
  --lr X                learning rate [0.05]
  --views N             random views per update [2]
  --size N              height and width; default: those of the network
  --vary VALUES         an image for each value: '{lr: [0.02, 0.05]}'
  --seed N              seed of the first image; image i has N + i [0]
  --slots N             images optimized at the same time [8]
  --log-at WHEN         saved iterations: 1,50,200, every:10, geometric, last
                        [every:10]
"""

_SALIENCY = """\
usage: lit-viz saliency PHOTOGRAPH ... [--method NAMES] [--out RUN] ...

Saliency maps of photographs: the relevance of each pixel for a class. The
maps are compared with Captum.

Example: lit-viz saliency packaged:chelsea --method gradient,smoothgrad
         lit-viz saliency photographs/ --labels folders --overlays

What is explained:
  PHOTOGRAPH ...        files, folders, packaged:NAME, or a CSV file
  --target CLASS        explained class; default: the label
  --labels SOURCE       predicted, folders, or a CSV file [predicted]
  --against CLASS       class that the target is contrasted with, or runner-up
  --fit MODE            crop, squash or pad

How:
  --method NAMES        one or several, with commas, of gradient,
                        input_x_gradient, smoothgrad, smoothgrad_squared,
                        vargrad, integrated_gradients, gradient_shap,
                        expected_gradients,
                        deep_lift, guided_backprop, deconvolution, grad_cam,
                        guided_grad_cam, grad_cam_plus_plus, layer_cam,
                        hires_cam, occlusion, feature_ablation, kernel_shap,
                        rise, extremal_perturbation; of transformers
                        attention_rollout, attention_gradient, legrad
  --method.sigma 0.2    option of the method; --method.rise.probability 0.4
                        of one of several (--model.method.help SmoothGrad)
  --config NAME         a YAML file, or one of gradient (default),
                        compare_methods, extremal_perturbation, vit,
                        simonyan_squeezenet, vgg16
  --iterations N        evaluations per map; default: those of the method
  --tolerance X         relative error at which a map is done
  --reducer NAME        map of the channels: max_abs, sum_abs, l2, positive ...
  --seed N              seed of the first map; map i has N + i [0]
  --slots N             maps computed at the same time [16]

Figure and evidence:
  --overlays            also draw the maps over the photographs
  --scale NAME          color scale: shared, or one per map [shared]
  --check MODE          comparison with Captum: captum, auto or none [captum]
  --localize            also compute box and mask of the object
  --boxes FILE          reference boxes, Pascal VOC or COCO
"""

_ATTACK = """\
usage: lit-viz attack PHOTOGRAPH ... [--target CLASS] [--attack NAME] ...

Adversarial examples of photographs, verified in the files that are saved.

Example: lit-viz attack packaged:chelsea --target stingray
         lit-viz attack photographs/ --attack pgd --eps 4/255 --norm linf

What is attacked:
  PHOTOGRAPH ...        files, folders, packaged:NAME, or a CSV file
  --target CLASS        class to reach; default: any other than the label
  --labels SOURCE       predicted, folders, or a CSV file [predicted]
  --fit MODE            crop, squash or pad

How:
  --attack NAME         one of normalized_ascent (default), fgsm, pgd, apgd,
                        ddn, deepfool, fmn, carlini_wagner, square, ensemble,
                        universal
  --eps 4/255           radius; several (1/255,2/255): a robustness curve
  --norm NAME           linf or l2
  --lr X                learning rate of normalized_ascent [0.2]
  --attack.restarts 5   option of the attack (--model.attack.help PGD)
  --config NAME         a YAML file, or one of normalized_ascent (default),
                        pgd_linf, apgd, ddn, deepfool, fmn, carlini_wagner,
                        square, ensemble, universal, diverse_pgd,
                        quail_to_stingray, vgg16
  --iterations N        updates per image; default: those of the attack
  --goal GOAL           above:V, below:V or change:T of a number; vanish,
                        appear or share:S of a decision
  --held-out X          share of the photographs that universal does not see
  --explain             also draw saliency maps of original and result
  --seed N              seed of the first image; image i has N + i [0]
  --slots N             images attacked at the same time [16]
  --log-at WHEN         saved iterations: 1,50,200, every:10, geometric, last
                        [geometric]
"""

#: Help by method.
USAGES = {
    "visualize": f"{_VISUALIZE}\n{_NETWORK_AND_RUN.format(method='visualize')}",
    "saliency": f"{_SALIENCY}\n{_NETWORK_AND_RUN.format(method='saliency')}",
    "attack": f"{_ATTACK}\n{_NETWORK_AND_RUN.format(method='attack')}",
}
